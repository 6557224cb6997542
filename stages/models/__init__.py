"""Models that stages ask: how one is named in a configuration, its card, its file.

asked         whom a model is asked about, and the column for its answer
cards         the card beside a model: what a run has to know of it
classifiers   fastText classifiers, with how they want text to be prepared
fasttext      fastText's files
ngrams        character n-gram models
importance    log ratios of hashed n-grams
"""
