"""DICOM files to facts and pixels; knows no model."""
