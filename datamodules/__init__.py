"""From files to `NoduleBatch`; `datamodules.modules` has what configs name."""
