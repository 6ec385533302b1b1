"""The exceptions of tff_dp.

```text
Exception
└── TffDpError
    ├── ArgumentError (ValueError)      an argument is outside its bounds
    │   ├── ArgumentTypeError (TypeError) an argument does not have the type of its computation
    │   ├── DataError                   client data disagree with each other or with the model
    │   ├── ModelError                  a model cannot be wrapped, or not in this way
    │   └── AccountingError             no valid accountant for a combination, or over its rounds
    ├── ClusterError (RuntimeError)     the workers of a cluster could not finish a round
    ├── ComputationError (RuntimeError) a computation failed while it ran, for example on a client
    ├── LedgerError (RuntimeError)      a privacy ledger is in use, damaged, or of another data set
    ├── RunFolderError (RuntimeError)   a run folder is in use, damaged, of another run, or not writable
    └── StackError (ImportError)        an installed package is missing or of an untested version
```

Every message names the argument or the object at fault, its value, the bound and the remedy. A
function that raises one of these has changed nothing. The one exception is `fit` after rounds have
been charged: the error that it raises then carries the result so far.
"""

from __future__ import annotations

import typing


class TffDpError(Exception):
    """Base of every exception that tff_dp raises on purpose.

    Attributes:
      result: If `fit` fails after it has charged rounds, the `FitResult` of the rounds that
        completed; its epsilon counts every round that was charged. Otherwise None.
    """

    result: typing.Any = None


class ArgumentError(TffDpError, ValueError):
    """An argument is outside its bounds."""


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument of a TFF computation does not have the type that the computation takes."""


class DataError(ArgumentError):
    """Client data are malformed, disagree across clients, or do not fit the model or the plan."""


class ModelError(ArgumentError):
    """A Keras model, loss or metric cannot be used as it was given."""


class AccountingError(ArgumentError):
    """No valid privacy accounting exists for what was asked."""


class StackError(TffDpError, ImportError):
    """A package that tff_dp builds on is missing or of a version that does not work."""


class ComputationError(TffDpError, RuntimeError):
    """A computation failed while it ran."""


class ClusterError(TffDpError, RuntimeError):
    """The workers of a cluster could not be reached, or could not finish a round."""


class LedgerError(TffDpError, RuntimeError):
    """A privacy ledger is in use by another run, damaged, or belongs to another data set."""


class RunFolderError(TffDpError, RuntimeError):
    """A run folder is in use, is damaged, holds another run, or cannot be written."""
