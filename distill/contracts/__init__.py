"""What any student, loss and teacher member must satisfy: the author of a plug-in runs these checks on it.

    from distill.contracts import check_student
    check_student(lambda n_items, item_vectors: MyStudent(n_items, item_vectors=item_vectors))

Each check raises AssertionError with a text that says what was wrong. None needs a network or a GPU, and for a small
model none takes more than a second or two.
"""

from distill.contracts.closed_form import check_closed_form
from distill.contracts.loss import check_loss
from distill.contracts.member import check_member, check_reload
from distill.contracts.representation import check_loss_module
from distill.contracts.student import check_student

__all__ = ["check_closed_form", "check_loss", "check_loss_module", "check_member", "check_reload", "check_student"]
