"""spotrun.store"""
