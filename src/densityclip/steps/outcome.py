"""What a training came to, in sentences, from the bundle that it left."""

from pathlib import Path

from densityclip.artifacts import read_json


def training_outcome(bundle: Path) -> list[str]:
    """Selected score and step, and what the probabilities are worth."""
    from densityclip.model.bundle import CALIBRATION, PROVENANCE
    from densityclip.probability.calibrate import Calibration

    provenance = read_json(bundle / PROVENANCE, "densityclip train")
    calibration = Calibration.from_dict(read_json(bundle / CALIBRATION, "densityclip train"))
    selected = provenance["selected"]
    steps = provenance["training"]["config"]["steps"]
    said = [f"Selected: step {selected['step']} of {steps}, {selected['by']} {selected['value']:.3f}."]
    if "stopped_after" in provenance:
        said.append(f"The training stopped after {provenance['stopped_after']} steps and was finished there.")
    if calibration.calibrated:
        patients = f"{calibration.patients} patients of the calibration part"
        said.append(f"Calibrated: temperature {calibration.temperature:.3g}, fitted on {patients}.")
    else:
        said.append(f"Not calibrated: {calibration.why or 'the temperature was not fitted'}.")
    said += [f"Note: {note}." for note in calibration.joining.notes]
    return said
