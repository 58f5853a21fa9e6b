"""Sources of images and clips: folders, patterns, lists, addresses, TARs and COCO files, as a stream of their names.

| source | images | names |
|---|---|---|
| a folder | every image in it and below, by its suffix | path below the folder |
| an image | itself | its file name |
| an http:// or https:// address | the image that it leads to | host and path, without the query |
| a pattern such as `data/**/*.jpg` | the files that match and are images | path below the part without wildcards |
| a text file | one path or address per line, relative to the file or to `root` | path below that folder |
| TAR files, one or a pattern such as `shards/{000..099}.tar` | members that are images | TAR's path / path in it |
| a COCO file | `file_name` of its images, relative to the file or to `root` | path below that folder |

A name is text with `/` between folders, never absolute and never upwards: for a listed file outside the folder it
is the whole path without its beginning `/`. Bytes that are not UTF-8 become backslash escapes. A file is one image
however often it is listed; of members of a TAR with the same name, the second of `a.jpg` is called `a#2.jpg`.
Addresses that differ in the query alone are told apart by a digest of it.

Images of kinds that cannot be read are among them, so that each becomes a failure with its reason. Left out are hidden
files and folders, links to a folder above, and what this program wrote itself, which `left_out` tells.

With `videos` video files are items too, wherever images are, by their suffix; `Item.clip` leads to their frames.
`SequenceSource` takes each folder of images for one clip.
"""

from grounded.labelling.sources.files import FolderSource, ListedFiles
from grounded.labelling.sources.items import Item, Source, image_suffixes
from grounded.labelling.sources.opening import open_source
from grounded.labelling.sources.sequences import SequenceSource
from grounded.labelling.sources.tars import TarSource

__all__ = [
    "FolderSource",
    "Item",
    "ListedFiles",
    "SequenceSource",
    "Source",
    "TarSource",
    "image_suffixes",
    "open_source",
]
