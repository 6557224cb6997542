"""What `stages/tokens.py` is made of.

vocabulary  changes to a tokenizer.json that keep every id: hide tokens from text, fill gaps between ids
"""
