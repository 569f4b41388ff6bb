"""What a row is: a plain text, a record of several columns, or a chat. And how it becomes a text and back.

The whole algorithm works on texts. A form writes each row as one text before it is embedded or shown to a model, and
reads what models wrote back into a row. Reading takes back what writing did, for every row. A text that is no row of
its form is broken: `parse` returns None, and the text is not used.
"""

from .chat import MESSAGES as MESSAGES
from .chat import Chat as Chat
from .choice import OWN_COLUMNS as OWN_COLUMNS
from .choice import check_chat_roles as check_chat_roles
from .choice import check_form as check_form
from .choice import check_text_column as check_text_column
from .choice import form_of as form_of
from .form import Form as Form
from .form import Row as Row
from .form import each_text as each_text
from .form import read_rows as read_rows
from .form import texts_in as texts_in
from .mending import mended as mended
from .mending import variations_in_form as variations_in_form
from .plain import Plain as Plain
from .record import Record as Record
