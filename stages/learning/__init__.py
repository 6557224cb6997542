"""What is learned once and used by many runs: `train-classifier` and `train-tokenizer`. No part of a run.

documents.py    examples from files: what domain they are from, negatives from a corpus, the split by domain
measures.py     how good a score is: areas under curves and their intervals, calibration, rank correlation
report.py       the card: a table of what each keep-rate would keep, samples at each cut, as JSON and as Markdown
classifier.py   the training of a classifier, and its command
tokenizer.py    the training of a tokenizer on a balanced sample, what it is worth, and its command
ranks.py        vocabularies as tiktoken writes them
"""
