"""The steps of `stages/dedup.py`, in the order in which they run.

keys        band keys and exact hashes of every document, shuffled so that equal ones meet
components  which documents have to be looked at together
verify      their shingle sets, computed again from the stored text, and the leaders among them
verdicts    an answer for every document, and who lost how much
index       what a later batch needs to be told apart from everything before it
probe       planted copies, looked up in the same files: the recall of this very run
"""
