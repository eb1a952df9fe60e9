"""A benchmark for users, against their own engine: the same request straight to it and through the router.

plan says what is asked in which order, client asks and keeps the times, run interleaves, statistics judges, result is
what goes into files; terminal and report show it. scale, plots, bars and page know nothing of what they draw.
"""
