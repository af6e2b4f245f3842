"""In the place of experiments.scaling.parts: parts that do what their name says."""

import json
import sys
import time

name, folder, seconds, *small = sys.argv[1:]
if name == "sleeps":
    time.sleep(60)
if name == "crashes":
    sys.exit("Segmentation fault")
print("some library prints as well")
content = {"error": "ValueError: so it is"} if name == "fails" else {"numbers": {}}
if name == "works":
    content = {"numbers": {"folder": folder, "small": bool(small)}}
print(json.dumps(content | {"environment": {"backend": "cpu"}}))
