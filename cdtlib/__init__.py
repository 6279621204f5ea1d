"""A companion to Cross-Domain Cascaded Deep Translation (Katzir, Lischinski, Cohen-Or, ECCV 2020).

Library code imports downwards only: data, features, models and losses know nothing of training,
and training knows nothing of notebooks.
"""

__version__ = "0.1.0"
