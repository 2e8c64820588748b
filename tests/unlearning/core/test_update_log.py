import torch

from unlearning.core.update_log import UpdateLog


class Unread(list):
    """A list that may be added to and not gone through."""

    def __iter__(self):
        raise AssertionError("the whole log was read")


def _log(batches=4):
    log = UpdateLog(max_bytes=10**6)
    for _ in range(batches):
        log.append(torch.arange(3), torch.ones(5))
    return log


def test_size_is_that_of_the_tensors_whatever_is_dropped():
    log = _log()
    assert log.size_bytes == 4 * (3 * 8 + 5 * 4)
    log.keep(3)
    assert log.size_bytes == 3 * (3 * 8 + 5 * 4)
    assert log.without(torch.tensor([7])).size_bytes == log.size_bytes
    assert log.without(torch.tensor([1])).size_bytes == 0


def test_appending_does_not_go_through_the_log():
    log = _log()
    log.rows, log.deltas = Unread(log.rows), Unread(log.deltas)
    log.append(torch.arange(3), torch.ones(5))
    assert log.size_bytes == 5 * (3 * 8 + 5 * 4)


def test_room_that_was_given_back_can_be_used_again():
    log = UpdateLog(max_bytes=100)
    for _ in range(3):
        log.append(torch.arange(3), torch.ones(5))
    assert (len(log), log.complete) == (2, False)
    log.keep(1)
    log.append(torch.arange(3), torch.ones(5))
    assert (len(log), log.complete, log.size_bytes) == (2, True, 88)
