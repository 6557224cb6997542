"""What is learned once and used by many runs: the commands `train-...`. No part of a run.

corpora.py      the documents of runs, folders and files, and what in them is none: one reader for all
documents.py    examples: what domain they are from, a sample in one language, near duplicates, the split by domain
measures.py     how good a score is: areas under curves and their intervals, calibration, rank correlation
report.py       the card: a table of what each keep-rate would keep, samples at each cut, as JSON and as Markdown
classifier.py   the training of a classifier, and its command
perplexity.py   the training of a character n-gram model, and its command
importance.py   the estimate of what makes texts of a target likelier than the corpus's, and its command
balance.py      what a tokenizer learns from: equal bytes of each language or source; what is held out
tokenizer.py    the training of a tokenizer, what it is worth, which size, and its command
tokenizer_report.py  its report for people
ranks.py        vocabularies as tiktoken writes them
"""
