"""What `stages/shards.py` is made of.

runs        documents of a partition as sorted runs on disk, and slices of all partitions' runs
mix         the mixture that is asked for
copies      how often each document comes up in it, and where
"""
