"""`croissant.json`: what a pushed dataset is, in the metadata format that data catalogs read.

The Hub makes a Croissant file of its own, but drops what belongs to responsible AI. This one says that the data is
synthetic, what is guaranteed, and whose text it is about. The format is Croissant 1.0 with its RAI vocabulary 1.0
(docs.mlcommons.org/croissant).
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .artifacts import CROISSANT_NAME, DATA_FILE
from .files import write_json
from .forms import MESSAGES
from .privacy.report import PrivacyReport

if TYPE_CHECKING:
    from datasets import Dataset

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{
        "sc": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/",
        "rai": "http://mlcommons.org/croissant/RAI/",
    },
    **{"dct": "http://purl.org/dc/terms/", "conformsTo": "dct:conformsTo", "citeAs": "cr:citeAs"},
    **{
        name: f"cr:{name}"
        for name in ("column", "extract", "field", "fileObject", "fileProperty", "fileSet", "format")
    },
    **{name: f"cr:{name}" for name in ("includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path")},
    **{
        name: f"cr:{name}"
        for name in ("recordSet", "references", "regex", "repeated", "replace", "separator", "source")
    },
    **{name: f"cr:{name}" for name in ("samplingRate", "subField", "transform")},
    "equivalentProperty": "cr:equivalentProperty",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
}


def write_croissant(
    folder: Path, dataset: "Dataset", report: PrivacyReport, repo_id: str, license: str | None = None
) -> None:
    """Write the file beside the data of a repository.

    Args:
        folder (`Path`): Folder with `DATA_FILE`.
        dataset (`datasets.Dataset`): The synthetic texts.
        report (`PrivacyReport`): What is guaranteed.
        repo_id (`str`): Repository of the Hub.
        license (`str`, *optional*): License of the texts.
    """
    digest = hashlib.sha256((folder / DATA_FILE).read_bytes()).hexdigest()
    address = f"https://huggingface.co/datasets/{repo_id}"
    kind = "Differentially private synthetic text" if report.is_finite else "Synthetic text"
    clients = "an undisclosed number of" if report.num_clients is None else f"{report.num_clients}"
    values = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": repo_id.rpartition("/")[2],
        "description": f"{kind} that imitates the private texts of {clients} clients. {report.guarantee}",
        "url": address,
        **({"license": license} if license else {}),
        "version": "1.0.0",
        "citeAs": "Hou et al., PrE-Text: Training Language Models on Private Federated Data in the Age of LLMs, 2024.",
        "isLiveDataset": False,
        "distribution": [
            {
                **{"@type": "cr:FileObject", "@id": "data", "name": "data", "encodingFormat": "application/x-parquet"},
                **{"contentUrl": f"{address}/resolve/main/{DATA_FILE}", "sha256": digest},
            }
        ],
        "recordSet": [
            {
                **{"@type": "cr:RecordSet", "@id": "texts", "name": "texts"},
                "field": [_field(name, feature) for name, feature in dataset.features.items()],
            }
        ],
        "rai:hasSyntheticData": True,
        "rai:dataCollection": (
            "No text was collected. Language models wrote the texts, guided by Private Evolution "
            f"(arxiv.org/abs/2406.02958). {report.mechanism}"
        ),
        "rai:dataCollectionType": "Synthetic data generation",
        "rai:personalSensitiveInformation": (
            f"{report.guarantee} Names, addresses and numbers in the texts were written by language models, and may "
            "be someone's by chance."
        ),
        "rai:dataLimitations": list(report.assumptions),
    }
    write_json(folder / CROISSANT_NAME, values)


def _field(name: str, feature: Any) -> Mapping[str, Any]:
    """Describe a column: a text, a label, or the messages of a conversation."""
    from datasets import ClassLabel

    field = {"@type": "cr:Field", "@id": f"texts/{name}", "name": name, "source": _source(name)}
    if name == MESSAGES:
        parts = [
            {
                **{"@type": "cr:Field", "@id": f"texts/{name}/{part}", "name": part, "dataType": "sc:Text"},
                "source": {**_source(name), "transform": {"jsonPath": part}},
            }
            for part in ("role", "content")
        ]
        return {**field, "repeated": True, "subField": parts}
    if isinstance(feature, ClassLabel):
        return {**field, "description": ", ".join(feature.names), "dataType": "sc:Integer"}
    return {**field, "dataType": "sc:Text"}


def _source(name: str) -> dict[str, Any]:
    return {"fileObject": {"@id": "data"}, "extract": {"column": name}}
