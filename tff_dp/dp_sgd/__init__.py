"""DP-SGD as the client's part of a round: the client work of record-level privacy.

Source: Abadi et al., "Deep Learning with Differential Privacy", arXiv:1607.00133, algorithm 1.
"""

from tff_dp.dp_sgd.client_work import build_client_work
from tff_dp.dp_sgd.coupling import refuse_coupled
from tff_dp.dp_sgd.models import check_model

__all__ = ["build_client_work", "check_model", "refuse_coupled"]
