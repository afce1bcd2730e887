"""Peak memory of some work on a CPU, from the allocator's own events."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes that tensors made by `work` held at once; what existed before does not count."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        result = work()
    del result
    events = [e for e in run.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
