"""Circuits that run anywhere: in this process, on simulators with and without noise, on IBM's devices.

Importing this package imports neither Qiskit nor PennyLane; the backends that need them do.
"""
