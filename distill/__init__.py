"""TailDistill: distil BERT/GPT recommenders into small students that keep the long tail."""

__version__ = "0.1.0"
