"""OpenDSR 2.0 as a processor: requests of controllers, signed answers, callbacks.

Specification: https://github.com/opengdpr/OpenDSR. What a request asks for is done by deletion
requests like any other; only what the specification adds is kept here.
"""
