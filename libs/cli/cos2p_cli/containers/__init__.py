"""The ring in containers on one machine: `cos2p up` and `cos2p down`, over any Docker engine.

`specs` and `classes` describe the wanted containers, `changes` the differences. All three are pure.
`engine` is the only module that talks to Docker. `up` and `down` apply the differences.
"""
