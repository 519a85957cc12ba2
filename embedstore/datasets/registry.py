"""The table of public data sets: name in, source, licence, checksums, task and preset out.

Checksums that begin with `git-blob` are the ids under which git keeps the files at the pinned
commits. No data set is part of this package.
"""

from __future__ import annotations

from embedstore.datasets.entry import DataSet, Form, Licence, Part, Preset, Target
from embedstore.errors import UnknownDataSet

_RAW = "https://raw.githubusercontent.com"
_ICODON = f"{_RAW}/santiago1234/iCodon/f3afe2bcf36a6bc0298ef7ec0dc42b68835bcb62"
_DEGSCORE = f"{_RAW}/eternagame/DegScore/2d56eaf5f560687f94f22fb8619a621dc2b798d8"
_OPENVACCINE = f"{_RAW}/DasLab/KaggleOpenVaccine/0d31e31bf05f64d8fd2bacaeec98ed0d8e01d7d1"
_CUBAR = f"{_RAW}/mt1022/cubar/350b29549e13dbfd95f9599af544e7fdc1fe885e"
_MRNABERT = f"{_RAW}/yyly6/mRNABERT/893ccc920bb9be02a4677d14d96b03126da17689"
_CALM = f"{_RAW}/oxpig/CaLM/24187ea44744ca548b747ad262058f3463589f8e"
_CODONBERT = f"{_RAW}/Sanofi-Public/CodonBERT/9c31ecc6631df08794c373c5d715235649e2181a"

_KEEP_NOTICE = "Keep the copyright notice and the licence with every copy."


def _mit(url: str, holder: str) -> Licence:
    return Licence(name=f"MIT ({holder})", url=url, asks=_KEEP_NOTICE)


_ACADEMIC = Licence(
    name="academic, non-commercial (Sanofi)",
    url=f"{_CODONBERT}/ARTIFACT_LICENSE.md",
    asks="Academic research in an academic or non-profit organisation alone, no commercial use; "
    "the notice stays with every copy.",
    must_accept=True,
)
_TRACKS = ("reactivity", "deg_Mg_pH10", "deg_pH10", "deg_50C")

_ENTRIES = (
    DataSet(
        name="openvaccine",
        title="OpenVaccine RNA degradation, filtered rows",
        about="Degradation of 107 and 130 nt RNAs, 68 measured nucleotides each in five tracks; "
        "rows of training and private test part that pass the authors' noise filter, 4,082 of "
        "the 4,893 the paper used. The RNAs are no coding sequences.",
        source="https://github.com/eternagame/DegScore, https://github.com/DasLab/KaggleOpenVaccine",
        licence=_mit(f"{_OPENVACCINE}/LICENSE", "Stanford"),
        parts=(
            Part(
                forms=(
                    Form(
                        name="openvaccine_4082.jsonl.gz",
                        checksum="sha256:"
                        "55ef10662f15389c8e145cd93f030c126e38e1d29bb62f2ab99090b6fdfa2605",
                        size=2_920_231,
                    ),
                )
            ),
        ),
        rows=4_082,
        folder="sars_cov2_degradation",
        id_column="id",
        sequence_column="sequence",
        target=Target(label="deg_Mg_50C", kind="per-position"),
        other_labels=_TRACKS,
        preset=Preset(coding=False, max_nt=None, keep=("SN_filter", 1)),
        backbones="one-hot-mrna",
    ),
    DataSet(
        name="openvaccine-train",
        title="OpenVaccine RNA degradation, all training rows",
        about="Degradation of 107 nt RNAs, 68 measured nucleotides each in five tracks: the 2,400 "
        "training rows, noisy ones included (`SN_filter` 0). The paper used them all, and 2,493 "
        "more. The RNAs are no coding sequences.",
        source="https://github.com/eternagame/DegScore",
        licence=_mit(f"{_DEGSCORE}/LICENSE", "Stanford"),
        parts=(
            Part(
                forms=(
                    Form(
                        name="openvaccine_train.jsonl",
                        checksum="git-blob:6dcd7c3678fc20d7b4fd55e640d115f62e1e2546",
                        url=f"{_DEGSCORE}/ReproduceDegScore/train.json",
                    ),
                )
            ),
        ),
        rows=2_400,
        id_column="id",
        sequence_column="sequence",
        target=Target(label="deg_Mg_50C", kind="per-position"),
        other_labels=_TRACKS,
        preset=Preset(coding=False, max_nt=None),
        backbones="one-hot-mrna",
    ),
    DataSet(
        name="icodon-test",
        title="iCodon mRNA stability, test part",
        about="Decay rates of human, mouse, fish and frog mRNAs, scaled within each experiment. "
        "The authors' test part; one sequence stands in several experiments, so its rates are "
        "averaged.",
        source="https://github.com/santiago1234/iCodon",
        licence=_mit(f"{_ICODON}/LICENSE", "S. G. Medina-Muñoz"),
        parts=(
            Part(
                forms=(
                    Form(
                        name="icodon_test.csv.gz",
                        checksum="sha256:"
                        "53b6e0fe10a4989eb803560b423ad704fac45f2f74edeb0a895b4787edf81daa",
                        size=4_228_418,
                    ),
                    Form(
                        name="icodon_testing.rda",
                        checksum="git-blob:520cd31fa9ff10aa2fc1e75feb93531a417def7c",
                        size=3_788_691,
                        url=f"{_ICODON}/data/testing.rda",
                    ),
                )
            ),
        ),
        rows=7_576,
        folder="icodon_stability",
        id_column="gene_id",
        sequence_column="coding",
        frame="testing",
        target=Target(label="decay_rate", kind="regression"),
        preset=Preset(average=True),
    ),
    DataSet(
        name="icodon-train",
        title="iCodon mRNA stability, training part",
        about="As `icodon-test`: the authors' training part, which shares no gene with it.",
        source="https://github.com/santiago1234/iCodon",
        licence=_mit(f"{_ICODON}/LICENSE", "S. G. Medina-Muñoz"),
        parts=(
            Part(
                forms=(
                    Form(
                        name="icodon_training.rda",
                        checksum="git-blob:6d18889b372860ac1fcfec515e8d0c1382fbf5b9",
                        url=f"{_ICODON}/data/training.rda",
                    ),
                )
            ),
        ),
        rows=67_775,
        id_column="gene_id",
        sequence_column="coding",
        frame="training",
        target=Target(label="decay_rate", kind="regression"),
        preset=Preset(average=True),
    ),
    DataSet(
        name="yeast-expression",
        title="Yeast mRNA abundance",
        about="Coding sequences of S. cerevisiae with FPKM and, for 3,888 of them, half-life. A "
        "stand-in for a fungal set: never to be compared with the paper's Fungal column.",
        source="https://github.com/mt1022/cubar",
        licence=_mit(f"{_CUBAR}/LICENSE.md", "cubar authors"),
        parts=(
            Part(
                forms=(
                    Form(
                        name="yeast_cds_fpkm_halflife.csv.gz",
                        checksum="sha256:"
                        "23ea6786e5c5b91ede55c1b570447a108fde200da6d08c2aaf868f0270fe15fd",
                        size=2_643_937,
                    ),
                )
            ),
        ),
        rows=6_600,
        folder="yeast_expression",
        id_column="name",
        sequence_column="seq",
        target=Target(label="fpkm", kind="regression", transform="log2", min_label=1),
        other_labels=("half_life",),
        preset=Preset(),
    ),
    DataSet(
        name="mrfp",
        title="mRFP expression of synonymous variants",
        about="Synonymous variants of one gene of 678 nt, with the expression of each in E. coli. "
        "No protein backbone can tell them apart: a negative control for an audit.",
        source="https://github.com/yyly6/mRNABERT",
        licence=Licence(
            name="Apache-2.0 (mRNABERT authors)",
            url=f"{_MRNABERT}/LICENSE",
            asks="Keep the licence and notices with every copy, and say what you changed.",
        ),
        parts=tuple(
            Part(
                name=part,
                forms=(
                    Form(name=f"mrfp_{part}.csv.gz", checksum=f"sha256:{sha256}", size=size),
                    Form(
                        name=f"mrfp_{part}.csv",
                        checksum=f"git-blob:{blob}",
                        size=unzipped,
                        url=f"{_MRNABERT}/sample_data/fine-tune/mRFP/{part}.csv",
                    ),
                ),
            )
            for part, size, sha256, unzipped, blob in (
                (
                    "train",
                    126_533,
                    "cdda9c09b8eeaa36a30149d29f57b2b8fb22bef75aae7637947d2936e209f0a0",
                    936_173,
                    "d8dc845dc1d064065c152715ec55b4e613482269",
                ),
                (
                    "dev",
                    28_735,
                    "ad629df5cf87a7678c0b0a88cc4218a8cf825cc74ab6c0ba2daacc33c72cb7cb",
                    200_818,
                    "e130f52b861134567dbb8f048f5dfd062189b0d9",
                ),
                (
                    "test",
                    27_892,
                    "1508a375ff98d4123b121e46bf4d89a03300d49d26515bf7f480117cbd30b4bc",
                    200_818,
                    "221e8f8a63b70e997331dab94e0a7faa2f03b436",
                ),
            )
        ),
        rows=1_459,
        folder="mrfp_expression",
        sequence_column="sequence",
        target=Target(label="label", kind="regression"),
        preset=Preset(),
        split="part",
        backbones="one-hot-mrna",
    ),
    DataSet(
        name="ecoli-abundance",
        title="E. coli protein abundance",
        about="Native genes of E. coli with the abundance of their protein. A regression, not the "
        "paper's six classes.",
        source="https://github.com/oxpig/CaLM",
        licence=Licence(
            name="BSD-3-Clause (C. Outeiral Rubiera)",
            url=f"{_CALM}/LICENSE",
            asks="Keep the copyright notice with every copy; the authors' names endorse nothing.",
        ),
        parts=(
            Part(
                forms=(
                    Form(
                        name="protein_abundance.csv.gz",
                        checksum="sha256:"
                        "04ed48cf8903cee83bbe77e6df05b09fa6450e5799e160ee3e0755e866a4b64d",
                        size=994_892,
                    ),
                    Form(
                        name="ecoli_protein_abundance.csv",
                        checksum="git-blob:233db4a3d2920a05f50b2d909e2ee01d9dc40675",
                        size=3_522_908,
                        url=f"{_CALM}/data/protein_abundance/ecoli.csv",
                    ),
                )
            ),
        ),
        rows=3_627,
        folder="ecoli_abundance",
        id_column="gene_id",
        sequence_column="cds",
        target=Target(label="abundance", kind="regression", transform="log1p"),
        preset=Preset(),
    ),
    DataSet(
        name="ecoli-six-classes",
        title="E. coli expression, six classes",
        about="6,348 genes expressed in E. coli, in six classes of yield (column `E`, 0 to 5). "
        "Length alone gives the paper's 4,450 rows, so nothing else is filtered.",
        source="https://doi.org/10.1038/nature16509 (Boël et al. 2016, Supplementary Data 2)",
        licence=Licence(
            name="none stated (supplement of a Nature article)",
            url="https://www.nature.com/nature-portfolio/reprints-and-permissions",
            asks="Nature's terms hold for use beyond your own; cite Boël et al. 2016.",
        ),
        parts=(
            Part(
                forms=(
                    Form(
                        name="boel_2016_data_2.xlsx",
                        checksum="sha256:"
                        "7e32a22549f4565a08284e64f4187c5562181b909bfb382849cd9227fe4ef978",
                        size=2_210_700,
                        url="https://media.springernature.com/original/springer-static/esm/"
                        "art%3A10.1038%2Fnature16509/MediaObjects/"
                        "41586_2016_BFnature16509_MOESM292_ESM.xlsx",
                    ),
                )
            ),
        ),
        rows=6_348,
        id_column="name",
        sequence_column="seq",
        sheet="E6348.csv",
        target=Target(label="E", kind="classification", classes=True),
        preset=Preset(coding=False),
    ),
    *(
        DataSet(
            name=name,
            title=title,
            about=about,
            source="https://github.com/Sanofi-Public/CodonBERT",
            licence=_ACADEMIC,
            parts=(
                Part(
                    forms=(
                        Form(
                            name=f"codonbert_{file}",
                            checksum=f"git-blob:{blob}",
                            url=f"{_CODONBERT}/benchmarks/CodonBERT/data/fine-tune/{file}",
                        ),
                    )
                ),
            ),
            rows=None,
            sequence_column="Sequence",
            target=target,
            preset=Preset(),
        )
        for name, title, about, file, blob, target in (
            (
                "fungal-expression",
                "Fungal expression",
                "Coding sequences of fungi with their expression, as the paper took them from "
                "CodonBERT's benchmarks (Wint et al. 2022).",
                "Fungal_expression.csv",
                "6a7285a37b5363c02e44c2829a39c9e5c7f4972e",
                Target(label="Value", kind="regression"),
            ),
            (
                "mrna-stability",
                "mRNA stability",
                "iCodon's decay rates as CodonBERT's benchmarks have them; rows that share a "
                "sequence are left as they are.",
                "mRNA_Stability.csv",
                "15f2a3af6b9ff5ce9bf5b06abd19631083bcfa9a",
                Target(label="Value", kind="regression"),
            ),
            (
                "ecoli-three-classes",
                "E. coli proteins, three classes",
                "Proteins expressed in E. coli in three classes, as CodonBERT's benchmarks have "
                "them (Ding et al. 2022).",
                "E.Coli_proteins.csv",
                "1e987a30fffe9c5f2b892b142ef5705c1025563d",
                Target(label="Value", kind="classification", classes=True),
            ),
        )
    ),
)

DATA_SETS: dict[str, DataSet] = {entry.name: entry for entry in _ENTRIES}
"""Every data set by name, in the order in which they are listed."""


def find_data_set(name: str) -> DataSet:
    """The data set of a name.

    Raises
    ------
    UnknownDataSet
        Lists the known names.
    """
    if name not in DATA_SETS:
        raise UnknownDataSet(
            f"There is no data set {name!r}.", f"Give one of: {', '.join(DATA_SETS)}."
        )
    return DATA_SETS[name]
