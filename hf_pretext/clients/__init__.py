"""The private side: the only rooms with private text.

A `ClientPool` offers the server one operation: a question in, a noisy sum over the clients out. `questions` holds what
can be asked, `samples` turns private text into what questions read, and `clipping` bounds what a client contributes.
"""

from .in_memory import InMemoryClientPool as InMemoryClientPool
from .pool import ClientPool as ClientPool
