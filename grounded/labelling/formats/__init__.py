"""Annotation formats, one file each, reading and writing. Their names are known here before any of them is loaded."""

EXPORT_FORMATS = {  # name -> module and class of its `exporter.Exporter`
    "coco": ("coco", "CocoExporter"),
    "coco-results": ("coco", "CocoResultsExporter"),
    "yolo-seg": ("yolo", "YoloSegmentExporter"),
    "yolo-box": ("yolo", "YoloBoxExporter"),
    "voc": ("voc", "VocExporter"),
    "labelme": ("labelme", "LabelMeExporter"),
    "labelme-mask": ("labelme", "LabelMeMaskExporter"),
    "label-studio": ("label_studio", "LabelStudioExporter"),
    "label-studio-polygon": ("label_studio", "LabelStudioPolygonExporter"),
    "cvat": ("cvat", "CvatExporter"),
    "sa1b": ("sa1b", "Sa1bExporter"),
    "png": ("png", "PngExporter"),
    "panoptic": ("panoptic", "PanopticExporter"),
    "csv": ("table", "CsvExporter"),
    "parquet": ("table", "ParquetExporter"),
}
VIDEO_FORMATS = ("coco-video", "youtube-vis", "mot", "mots", "davis")  # of clips, written by `video.export_clips`
IMPORT_FORMATS = {  # name -> module and class of its `annotations.AnnotationReader`
    "coco": ("coco", "CocoReader"),
    "coco-results": ("coco_results", "CocoResultsReader"),
    "labelme": ("labelme", "LabelMeReader"),
    "label-studio": ("label_studio_reader", "LabelStudioReader"),
    "cvat": ("cvat", "CvatReader"),
    "yolo": ("yolo", "YoloReader"),
    "voc": ("voc", "VocReader"),
    "sa1b": ("sa1b", "Sa1bReader"),
    "png": ("png", "PngReader"),
    "panoptic": ("panoptic", "PanopticReader"),
    "csv": ("table", "TableReader"),
    "parquet": ("table", "TableReader"),
}
NOTE = "export.txt"  # in every exported folder: what it holds, and what is lost
