"""spotrun.cli"""
