"""Attention for the sequence model: kinds with one face, registered by name (`config.ATTENTION`).

Everything here works on heads: queries (B, h, N, d), keys (B, h, M, d), values (B, h, M, dv).
B batch, h heads, N queries, M keys, d and dv widths of a head.
"""
