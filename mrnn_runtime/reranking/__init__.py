"""Which of the candidates is the best: the rerankers, and the consensus of similar photos.

``references`` is the folder of captioned photos, ``neighbours`` finds the similar ones,
``similarity`` compares captions, ``ngrams`` is what they are compared by. Nothing but numpy.
"""
