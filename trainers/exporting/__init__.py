"""Exported models: the graph, its file in several formats, and the certificate that both detect the same.

A format is a file with `save`, `describe`, `running` and `load`, the suffix of its files, the packages it needs and the
extra that installs them.
"""

FORMATS = {
    "onnx": "trainers.exporting.onnx_file",
    "openvino": "trainers.exporting.openvino_file",
    "torch": "trainers.exporting.torch_file",
}
