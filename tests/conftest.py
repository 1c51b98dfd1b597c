"""What all tests share."""

from hypothesis import settings

# How long an example takes hangs on what else the machine does.
settings.register_profile("tests", settings(), deadline=None)
settings.load_profile("tests")
