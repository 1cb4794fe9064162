"""The lessons of `make learn`: what to predict before each, and the hints for each experiment."""
from typing import NamedTuple


class Lesson(NamedTuple):
    stage: str  # that the reader's server becomes with it
    prediction: str  # a question, asked before the lesson begins


LESSONS = {lesson.stage: lesson for lesson in [
    Lesson('part3-v1.1-fd-leak', 'One client is connected and says nothing. Is the next one answered?'),
    Lesson('part3-v1.1', 'After fork() two processes hold the socket. When does the client see the end?'),
    Lesson('part3-v1.2', 'A child has answered its client and ended. What does ps show?'),
    Lesson('part3-v1.3', 'A signal interrupts accept(). Does the server survive?'),
    Lesson('part3-final', '24 children end at the same moment. How many zombies are left?'),
]}
HINTS = {name: ('what to look at', 'the idea', 'the place') for name in (
    'silent_client end_of_reply descriptors one_child eintr children_at_once stopped_child').split()}
