"""Watch two arms of a rollout and judge them: sources of samples, the run, what it keeps, and its hooks.

recording  judges samples that were recorded, as if they arrived live
run        asks the sources on a schedule, feeds the judge, and ends at FAIL or with the window
state      what a run keeps so that another process goes on with it
hooks      commands that are run with the verdict on stdin
probe, health, prometheus
           sources: each answers a look with samples, and with what it could not find out
"""
