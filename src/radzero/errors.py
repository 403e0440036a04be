"""The exceptions of the library, in one tree.

Every error that the library raises on purpose for a file, a folder, a model or a server is a :class:`RadZeroError`, so
that ``except radzero.RadZeroError`` catches all of them. Each is also a ``ValueError`` or a ``RuntimeError``. An
argument of a wrong type or value raises Python's own ``TypeError`` or ``ValueError``, and an extra that is not
installed raises an ``ImportError`` that names the ``pip install`` line.

::

    RadZeroError
    ├── RadiographError (ValueError)          a file that cannot be read as one radiograph      radzero.images
    ├── CheckpointError (ValueError)          a checkpoint that cannot be loaded or written     radzero.models
    ├── ResultError (ValueError)              a reading that cannot become a DICOM object       radzero.results
    ├── BenchmarkError (ValueError)           a benchmark's files, or a run's folder            radzero.evaluation
    ├── ManifestError (ValueError)            a training manifest                               radzero.training
    │   └── EmptySplitError                   a split without an image that states anything
    ├── TokenCacheError (RuntimeError)        vision tokens kept on disk                        radzero.training
    ├── TrainingError (RuntimeError)          a training run that cannot go on                  radzero.training
    ├── TooManyUnreadableError (RuntimeError) more unreadable images than the recipe allows     radzero.training
    ├── InvalidSentenceError (ValueError)     a sentence that breaks the finding-sentence form  radzero.reports
    ├── EndpointError (RuntimeError)          a language model's endpoint that failed           radzero.reports
    ├── RefusedReportError (RuntimeError)     a report that the endpoint refused                radzero.reports
    └── UnreachableError (RuntimeError)       a server that does not answer                     radzero.pacs
        └── NotTakenError                     a server that does not give an image or store a result
            └── LostError                     a lost result, which must be made again

Most messages name the file or server, the cause and the remedy; those of ``InvalidSentenceError`` and
``RefusedReportError`` are the reason alone.
"""


class RadZeroError(Exception):
    """The root of the library's exceptions; see :mod:`radzero.errors` for the tree."""
