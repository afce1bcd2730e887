"""Suites in packages of their own: what is known of them, and the adapters that need code."""
