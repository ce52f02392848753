"""spotrun.providers.local"""
