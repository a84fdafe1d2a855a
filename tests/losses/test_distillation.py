"""Soft-target distillation: hand-worked values, the divergence, its gradient, and who gets one."""

import math

import pytest
import torch
import torch.nn.functional as F

from fgvc_lib.losses.distillation import DistillationLoss, distillation_loss


def test_two_classes_by_hand():
    # at T = 2 the teacher's logits (2 log 3, 0) are probabilities (3/4, 1/4), the student's (0, 0) a half each
    student, teacher = torch.zeros(1, 2), torch.tensor([[2 * math.log(3), 0.0]])
    torch.testing.assert_close(distillation_loss(student, teacher, temperature=2), torch.tensor(math.log(2)))
    reverse = distillation_loss(teacher, student, temperature=2)
    torch.testing.assert_close(reverse, torch.tensor(-0.5 * (math.log(3 / 4) + math.log(1 / 4))))


def literal(student, teacher, temperature):
    total = 0.0
    for s, d in zip(student.tolist(), teacher.tolist(), strict=True):
        zs, zd = ([math.exp(v / temperature) for v in row] for row in (s, d))
        total -= sum(b / sum(zd) * math.log(a / sum(zs)) for a, b in zip(zs, zd, strict=True))
    return total / len(student)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
def test_equal_to_the_formula_and_to_the_divergence_plus_the_teachers_entropy(temperature):
    student, teacher = torch.randn(2, 5, 7, dtype=torch.float64)
    loss = distillation_loss(student, teacher, temperature=temperature)
    torch.testing.assert_close(float(loss), literal(student, teacher, temperature))
    log_s, log_d = ((z / temperature).log_softmax(1) for z in (student, teacher))
    divergence = F.kl_div(log_s, log_d, log_target=True, reduction="batchmean")
    entropy = -(log_d.exp() * log_d).sum(1).mean()
    torch.testing.assert_close(loss, divergence + entropy)
    # least, and there the teacher's entropy, where the two agree
    torch.testing.assert_close(distillation_loss(teacher, teacher, temperature=temperature), entropy)
    assert loss > entropy


def test_gradcheck_and_the_students_gradient_is_the_difference_of_probabilities():
    student, teacher = torch.randn(2, 4, 3, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: distillation_loss(s, teacher, temperature=3), student)
    (gradient,) = torch.autograd.grad(distillation_loss(student, teacher, temperature=3), student)
    difference = ((student / 3).softmax(1) - (teacher / 3).softmax(1)) / 3 / 4
    torch.testing.assert_close(gradient, difference)


def test_the_teacher_gets_a_gradient_only_when_not_detached():
    student, teacher = torch.randn(2, 4, 3, dtype=torch.float64)
    both = (student.requires_grad_(), teacher.requires_grad_())
    to_student, to_teacher = torch.autograd.grad(distillation_loss(*both), both, allow_unused=True)
    assert to_student.any()
    assert to_teacher is None
    to_student, to_teacher = torch.autograd.grad(distillation_loss(*both, detach_teacher=False), both)
    assert to_teacher.any()
    assert torch.autograd.gradcheck(lambda s, d: distillation_loss(s, d, detach_teacher=False), both)


def test_the_squared_temperature_keeps_the_gradient_of_one_size():
    student, teacher = torch.randn(2, 4, 3, dtype=torch.float64)
    plain, squared = (distillation_loss(student, teacher, temperature=5, square_temperature=s) for s in (False, True))
    torch.testing.assert_close(squared, 25 * plain)
    sizes = []
    for temperature in (100.0, 200.0):
        leaf = student.clone().requires_grad_()
        distillation_loss(leaf, teacher, temperature=temperature, square_temperature=True).backward()
        sizes.append(leaf.grad.norm())
    torch.testing.assert_close(sizes[0], sizes[1], rtol=0.02, atol=0)


def test_module_equals_function_and_any_constant_added_to_logits_is_lost():
    student, teacher = torch.randn(2, 1, 6)
    arguments = {"temperature": 4.0, "detach_teacher": False, "square_temperature": True}
    loss = distillation_loss(student, teacher, **arguments)
    assert torch.equal(DistillationLoss(**arguments)(student, teacher), loss)
    torch.testing.assert_close(distillation_loss(student + 3, teacher - 2, **arguments), loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_finite_inside_autocast(dtype):
    student, teacher = (1000 * torch.randn(2, 4, 3)).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        loss = distillation_loss(student, teacher, temperature=1)
    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2, 4\)"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    for refused in (
        lambda: distillation_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0),
        lambda: DistillationLoss(temperature=0)(torch.zeros(2, 3), torch.zeros(2, 3)),
    ):
        with pytest.raises(ValueError, match="temperature must be positive, got 0"):
            refused()
