"""An anchor over two parameters without curvature, and rows to forget, by their numbers."""

import torch

from unlearning.anchored import anchor as anchors


def hand_made(gradient_sum, count):
    """An anchor over two parameters without curvature."""
    gradient_sum = torch.tensor(gradient_sum, dtype=torch.float64)
    return anchors.Anchor(
        theta=torch.zeros(2),
        gradient_sum=gradient_sum,
        preconditioned_sum=gradient_sum,
        class_counts=torch.tensor([count, 0]),
        count=count,
        training_loss=1.0,
        validation_loss=2.0,
        curvature=None,
        law=None,
    )


def hand_forgotten(gradient_sum, count, preconditioned=None, push=None):
    gradient_sum = torch.tensor(gradient_sum, dtype=torch.float64)
    solved = gradient_sum if preconditioned is None else torch.tensor(preconditioned).double()
    return anchors.Forgotten(
        gradient_sum=gradient_sum,
        preconditioned_sum=solved,
        push_sum=gradient_sum if push is None else torch.tensor(push).double(),
        preconditioned_push_sum=solved if push is None else torch.tensor(push).double(),
        weight_sum=float(count),
        class_counts=torch.tensor([count, 0]),
        count=count,
        loss_sum=1.0 * count,
    )
