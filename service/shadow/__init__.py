"""Shadowing: a sample of the answered texts goes to the teacher, after the answer was sent, and is compared.

In through `pipeline.ShadowPipeline`; everything else here serves it.
"""
