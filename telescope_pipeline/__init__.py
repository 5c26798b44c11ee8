"""The case studies as a pipeline: ``params.yaml`` in, results, figures and claims out."""
