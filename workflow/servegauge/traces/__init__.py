"""Profiler output of any kind becomes tidy tables of steps, kernels, copies, collectives and gaps."""
