"""What all pages for people share: elements that escape, the base of their looks, numbers as words.

Made here are the status page of `serve` and the report of `canary-check`: whole documents, each with its one
style, which a policy admits by its digest, and with no script and no asset outside.
"""
