"""Evaluation of pretrained encoders: protocols, features, classifiers, metrics, results."""
