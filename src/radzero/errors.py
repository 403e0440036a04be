"""The exceptions of the library, in one tree.

Every error that the library raises on purpose for a file, a folder, a model or a server is a :class:`RadZeroError`, so
that ``except radzero.RadZeroError`` catches all of them. Most are a ``ValueError`` or ``RuntimeError`` besides. An
argument of a wrong type or value raises Python's own ``TypeError`` or ``ValueError``, and an extra that is not
installed an ``ImportError`` that names the ``pip install`` line.

::

    RadZeroError
    ├── RadiographError (ValueError)          a file that cannot be read as one radiograph      radzero.images
    ├── CheckpointError (ValueError)          a checkpoint that cannot be loaded or written     radzero.models
    ├── ResultError (ValueError)              a reading that cannot become a DICOM object       radzero.results
    ├── BenchmarkError (ValueError)           a benchmark's files, or a run's folder            radzero.evaluation
    ├── ManifestError (ValueError)            a training manifest                               radzero.training
    │   └── EmptySplitError                   a split without an image
    ├── TokenCacheError (RuntimeError)        vision tokens kept on disk                        radzero.training
    ├── TrainingError (RuntimeError)          a training run that cannot go on                  radzero.training
    ├── TooManyUnreadableError (RuntimeError) more unreadable images than the recipe allows     radzero.training
    ├── InvalidSentenceError (ValueError)     a sentence that breaks the finding-sentence form  radzero.reports
    ├── EndpointError (RuntimeError)          a language model's endpoint that failed           radzero.reports
    ├── RefusedReportError (RuntimeError)     a report that the endpoint did not extract        radzero.reports
    └── UnreachableError (RuntimeError)       a server that does not answer                     radzero.pacs
        └── NotTakenError                     a server that does not take a result
            └── LostError                     a result that is to be made again

The message of each names the file or server, the cause and the remedy.
"""


class RadZeroError(Exception):
    """The root of the library's exceptions; see :mod:`radzero.errors` for the tree."""
