"""The ring in containers on one machine: `cos2p up` and `cos2p down`, over any Docker engine.

What is wanted (`specs`, `classes`) and what differs (`changes`) are pure; `engine` is the only
module that talks to Docker; `up` and `down` bring the one to the other.
"""
