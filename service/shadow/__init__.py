"""Shadowing: after a text is answered, a sample of the texts goes to the teacher, and both answers are compared.

`pipeline.ShadowPipeline` is the entry; everything else here serves it.
"""
