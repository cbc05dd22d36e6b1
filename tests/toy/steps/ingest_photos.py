from toy import run

VERSION = 1

run("ingest_photos", VERSION)
