"""What is guaranteed: accounting, mechanism, plan, noise, ledger and report. An auditor reads this and `clients/`.

What is released: noisy sums over the clients, to the server that runs the evolution and from there to anyone. Each
answers one public question (`clients.questions`). The unit is the client, with all of its samples. Neighboring data
sets differ by adding or removing the texts of one client, or by exchanging them under `"replace_one"`. The sensitivity
of each release is stated by its `Mechanism`. Everything else (selection, variation, seeds, expansion, models trained
on the texts) is computed from these releases and public data alone. It is post-processing: the same guarantee covers
it, and it costs nothing more.

One frozen object, the `Plan`, gives both the noise that is drawn and the epsilon that is claimed.
"""

from ..artifacts import REPORT_NAME as REPORT_NAME
from .accounting import Accountant as Accountant
from .accounting import calibrate_noise_multiplier as calibrate_noise_multiplier
from .accounting import compute_epsilon as compute_epsilon
from .figures import rounded_up as rounded_up
from .ledger import PrivacyLedger as PrivacyLedger
from .ledger import Release as Release
from .ledger import ReleaseLostError as ReleaseLostError
from .mechanism import Mechanism as Mechanism
from .plan import Plan as Plan
from .plan import PlannedRelease as PlannedRelease
from .report import PrivacyReport as PrivacyReport
