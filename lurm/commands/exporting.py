"""`lurm export`: a release as files for faiss, NumPy or anything that reads Parquet."""

from lurm.commands.arguments import add_command, add_release, open_release

FORMATS, DTYPES = ("faiss", "npy", "parquet"), ("float32", "float16", "int8")  # said again, because --help must not load numpy


def add(commands) -> None:
    export = add_command(
        commands, "export", "write a release as a faiss index, NumPy arrays or Parquet, with the error stated", _export,
        "example:\n  lurm export --warehouse demo/warehouse --format npy --dtype int8\n"
        "  lurm export --warehouse demo/warehouse --format faiss --anchor 3 --output /data/anchor3",
        "Write the vectors of a release, which user stands in which row, and export.json: what the files hold, and what was lost\n"
        "by a smaller type. A faiss index holds vectors of length 1, so that inner products are cosines, and is in memory while it\n"
        "is written; the other formats take memory for one batch.",
    )
    add_release(export)
    export.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    export.add_argument("--dtype", choices=DTYPES, default="float32", help="int8 has one scale for every anchor of every vector; in faiss one "
                        "range for every number (default: float32)")
    export.add_argument("--anchor", type=int, metavar="I", help="this anchor alone, counted from 0 (default: whole vectors)")
    export.add_argument("--output", metavar="FOLDER", help="a folder that is not there yet (default: one in <warehouse>/exports, where lurm "
                        "erase finds it)")
    export.add_argument("--replace", action="store_true", help="replace an export that is there, once the new one is whole")


def _export(options) -> int:
    from lurm.exporting.export import EXPORTS, export, export_folder
    from lurm.store import Store

    store, table = Store(options.warehouse), open_release(options)
    folder = export_folder(store, table, options.format, options.dtype, options.anchor, options.output)
    record = export(store, table, folder, options.format, options.dtype, options.anchor, options.replace)
    error = {name: "not measured" if value is None else f"{value:.6g}" for name, value in record["error"].items()}
    print(f"{record['users']} users of {table.as_of}, {record['width']} numbers of {record['dtype']}, model {table.model_id}: {folder}")
    print(f"error: relative L2 {error['relative_l2_mean']} on average, {error['relative_l2_max']} at most; cosine to the original "
          f"{error['cosine_mean']}; nearest 10 kept {error['nearest_10_kept']}, among {error['sampled_users']} users")
    if folder.parent.name != EXPORTS or not folder.is_relative_to(store.root):
        print(f"lurm erase does not reach {folder}: whoever keeps it there must remove erased users himself")
    return 0
