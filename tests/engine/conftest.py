from hypothesis import settings

# The first example of a test may compile a kernel: no test here is about how long anything takes.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
