"""Distillation by soft targets (Hinton et al., 2015), which trains the master net of TASN (Zheng et al., CVPR 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 10.0,
    detach_teacher: bool = True,
    square_temperature: bool = False,
) -> Tensor:
    r"""Cross-entropy of the student's softened probabilities against the teacher's, mean over the batch.

    .. math::
        q^{(i)} = \frac{\exp(z^{(i)} / T)}{\sum_j \exp(z^{(j)} / T)}, \qquad
        L = -\frac1B \sum_b \sum_i q_d^{(i)} \log q_s^{(i)}

    It is the Kullback-Leibler divergence plus the teacher's entropy, which has no gradient in the student; it does
    not fall to zero where the two agree.

    ============================== ======================== ======= ===============================================
    symbol                         argument                 default source
    ============================== ======================== ======= ===============================================
    :math:`z_s, z_d`               ``student``, ``teacher``         paper: master net, part net
    T                              ``temperature``          10      official code
    :math:`T^2` on the loss        ``square_temperature``   False   official code has none; Hinton et al. advise it
    no gradient into the teacher   ``detach_teacher``       True    paper's direction, part net to master net
    ============================== ======================== ======= ===============================================

    The gradient in the student's logits shrinks as 1/T² without the factor, so the weight of this term and T cannot
    be chosen apart. In the official code nothing stops the gradient into the teacher: ``detach_teacher=False``.

    Args:
        student: ``(B, C)`` logits.
        teacher: ``(B, C)`` logits.
        temperature: T, positive.
        detach_teacher: let this loss move the student only.
        square_temperature: multiply by T², which makes the gradient comparable between temperatures.

    Returns:
        A float32 scalar (float64 for float64 logits), under autocast too; 0 for an empty batch.

    Raises:
        ValueError: shapes that differ or are not ``(B, C)``, or a temperature that is not positive.
    """
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher must both be (B, C) logits, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if detach_teacher:
        teacher = teacher.detach()
    student = student if student.dtype == torch.float64 else student.float()
    targets = F.softmax(teacher.to(student) / temperature, dim=1)  # (B, C)
    loss = -(targets * F.log_softmax(student / temperature, dim=1)).sum() / max(student.shape[0], 1)
    return loss * temperature**2 if square_temperature else loss


class DistillationLoss(nn.Module):
    """Module twin of :func:`distillation_loss`, with its arguments."""

    def __init__(
        self, *, temperature: float = 10.0, detach_teacher: bool = True, square_temperature: bool = False
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.detach_teacher = detach_teacher
        self.square_temperature = square_temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return distillation_loss(
            student,
            teacher,
            temperature=self.temperature,
            detach_teacher=self.detach_teacher,
            square_temperature=self.square_temperature,
        )
