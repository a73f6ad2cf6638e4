"""Consensus: how well a caption agrees with what people said about similar photos.

``references`` is the folder of such photos, ``neighbours`` finds the similar ones, ``similarity``
compares captions, ``ngrams`` is what they are compared by. Nothing but numpy.
"""
