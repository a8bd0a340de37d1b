"""A generated archive of headers as long as real ones: DM, synthesized 2D and tomosynthesis, four views a woman."""

from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

DM = "1.2.840.10008.5.1.4.1.1.1.2"
BTO = "1.2.840.10008.5.1.4.1.1.13.1.3"
VIEWS = {"CC": ("399162004", "cranio-caudal"), "MLO": ("399368009", "medio-lateral oblique")}
FRAMES = 56
PATIENT, NUMBER = "W999999", "7777777"


def write_archive(folder: Path, files: int) -> list[Path]:
    """Write as many files as asked: of every woman DM, s2D and DBT of four views.

    Each header is built once and stamped with the ids of each woman, which have one length: pydicom takes 0.2 s to
    build the header of a volume.
    """
    models = {
        (kind, side, view, open_): model(folder / "model", side, view, kind, open_sequences=open_)
        for kind in ("DM", "s2D", "DBT")
        for side in "LR"
        for view in VIEWS
        # Vendors differ in how they end a sequence; the open form costs every reader more.
        for open_ in (False, True)
    }
    paths: list[Path] = []
    for number in range(files):
        woman, image = divmod(number, len(models) // 2)
        kind, side, view, _ = list(models)[2 * image]
        path = folder / f"W{woman:06d}" / f"{kind}-{side}{view}"
        path.parent.mkdir(parents=True, exist_ok=True)
        stamped = models[kind, side, view, woman % 2 == 1].replace(PATIENT.encode(), f"W{woman:06d}".encode())
        path.write_bytes(stamped.replace(NUMBER.encode(), f"{1000000 + woman}".encode()))
        paths.append(path)
    return paths


def model(path: Path, side: str, view: str, kind: str, *, open_sequences: bool) -> bytes:
    write(path, header(PATIENT, side, view, kind), open_sequences=open_sequences)
    content = path.read_bytes()
    path.unlink()
    return content


def code(value: str, meaning: str, scheme: str = "SCT") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def header(patient: str, side: str, view: str, kind: str) -> Dataset:
    ds = Dataset()
    tomo = kind == "DBT"
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = {
        "DM": ["ORIGINAL", "PRIMARY"],
        "s2D": ["DERIVED", "PRIMARY", "", "GENERATED_2D"],
        "DBT": ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "NONE"],
    }[kind]
    ds.SOPClassUID = BTO if tomo else DM
    image = f"{['DM', 's2D', 'DBT'].index(kind)}{'LR'.index(side)}{list(VIEWS).index(view)}"
    ds.StudyInstanceUID = f"1.2.826.0.1.3680043.10.1341.20240117101530.{NUMBER}"
    ds.SeriesInstanceUID = f"{ds.StudyInstanceUID}.1{image}"
    ds.SOPInstanceUID = f"{ds.SeriesInstanceUID}.1"
    for name in ("Study", "Series", "Acquisition", "Content", "InstanceCreation"):
        setattr(ds, f"{name}Date", "20240117")
        setattr(ds, f"{name}Time", "101530.250000")
    for name, value in PLAIN.items():
        setattr(ds, name, value)
    ds.PatientID = patient
    ds.AccessionNumber = f"A{patient}"
    ds.SeriesDescription = f"{side} {view} {kind}"
    ds.ViewPosition = view
    ds.ImageLaterality = side
    if tomo:
        del ds.ImageLaterality
    ds.PatientOrientation = {"L": ["A", "R"], "R": ["P", "L"]}[side]
    coded = code(*VIEWS[view])
    coded.ViewModifierCodeSequence = Sequence()
    ds.ViewCodeSequence = Sequence([coded])
    ds.AnatomicRegionSequence = Sequence([code("76752008", "Breast")])
    ds.ProcedureCodeSequence = Sequence([code("MG2D3D", "Screening mammogram", "L")])
    add_sequences(ds)
    add_private(ds)
    if tomo:
        add_frames(ds, side)
    ds.Rows, ds.Columns = 8, 8
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = b"\0" * (128 * (FRAMES if tomo else 1))
    ds["PixelData"].VR = "OW"
    return ds


PLAIN = {
    "Modality": "MG",
    "PresentationIntentType": "FOR PRESENTATION",
    "Manufacturer": "Maker of Machines, Inc.",
    "InstitutionName": "A Hospital",
    "InstitutionAddress": "1 Road, Town",
    "ReferringPhysicianName": "Doctor^A",
    "StationName": "ROOM1",
    "StudyDescription": "Screening Bilateral 3D",
    "InstitutionalDepartmentName": "Breast imaging",
    "PerformingPhysicianName": "Doctor^B",
    "OperatorsName": "Technologist^C",
    "ManufacturerModelName": "Model 3000",
    "PatientName": "Name^First",
    "PatientBirthDate": "19610212",
    "PatientSex": "F",
    "PatientAge": "062Y",
    "PatientSize": "1.65",
    "PatientWeight": "70",
    "EthnicGroup": "",
    "PatientComments": "",
    "BodyPartExamined": "BREAST",
    "KVP": "29",
    "DeviceSerialNumber": "81000000001",
    "SoftwareVersions": ["4.1.0", "2.0.1"],
    "ProtocolName": "ROUTINE3D",
    "DistanceSourceToDetector": "700",
    "DistanceSourceToPatient": "675",
    "EstimatedRadiographicMagnificationFactor": "1.037",
    "FieldOfViewShape": "RECTANGLE",
    "FieldOfViewDimensions": ["287", "239"],
    "ExposureTime": "900",
    "XRayTubeCurrent": "199",
    "Exposure": "179",
    "ExposureInuAs": "179000",
    "FilterType": "STRIP",
    "ImagerPixelSpacing": ["0.070", "0.070"],
    "Grid": ["RECIPROCATING", "FOCUSED"],
    "FocalSpots": "0.3",
    "AnodeTargetMaterial": "TUNGSTEN",
    "BodyPartThickness": "57",
    "CompressionForce": "98.3",
    "FilterMaterial": "RHODIUM",
    "ExposureControlMode": "AUTOMATIC",
    "ExposureStatus": "NORMAL",
    "DetectorTemperature": "30.4",
    "DetectorType": "DIRECT",
    "DetectorConfiguration": "AREA",
    "DetectorID": "DET0001",
    "DetectorActiveShape": "RECTANGLE",
    "DetectorActiveDimensions": ["287", "239"],
    "DetectorElementPhysicalSize": ["0.070", "0.070"],
    "PositionerType": "MAMMOGRAPHIC",
    "PositionerPrimaryAngle": "0",
    "RelativeXRayExposure": 512,
    "EntranceDoseInmGy": "8.1",
    "OrganDose": "0.0153",
    "HalfValueLayer": "0.54",
    "StudyID": "7",
    "SeriesNumber": "71100000",
    "AcquisitionNumber": "1",
    "InstanceNumber": "1",
    "FrameOfReferenceUID": "1.2.3.4.5.6.7.8.9.10.11.12",
    "PositionReferenceIndicator": "",
    "ImageComments": "",
    "BurnedInAnnotation": "NO",
    "LossyImageCompression": "00",
    "BreastImplantPresent": "NO",
    "QualityControlImage": "NO",
    "PixelIntensityRelationship": "LOG",
    "PixelIntensityRelationshipSign": -1,
    "WindowCenter": ["540", "540"],
    "WindowWidth": ["580", "620"],
    "WindowCenterWidthExplanation": ["NORMAL", "HARDER"],
    "RescaleIntercept": "0",
    "RescaleSlope": "1",
    "RescaleType": "US",
    "VOILUTFunction": "SIGMOID",
    "RequestedProcedureDescription": "Screening",
    "PerformedProcedureStepStartDate": "20240117",
    "PerformedProcedureStepStartTime": "101500",
    "PerformedProcedureStepID": "1",
    "PerformedProcedureStepDescription": "Screening",
    "PresentationLUTShape": "IDENTITY",
}


def add_sequences(ds: Dataset) -> None:
    reference = Dataset()
    reference.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.3"
    reference.ReferencedSOPInstanceUID = generate_uid(entropy_srcs=["step"])
    ds.ReferencedPerformedProcedureStepSequence = Sequence([reference])
    source = Dataset()
    source.ReferencedSOPClassUID = DM
    source.ReferencedSOPInstanceUID = generate_uid(entropy_srcs=["source"])
    source.PurposeOfReferenceCodeSequence = Sequence([code("121324", "Source image", "DCM")])
    ds.SourceImageSequence = Sequence([source])
    request = Dataset()
    request.RequestedProcedureDescription = "Screening"
    request.ScheduledProcedureStepID = "1"
    request.RequestedProcedureID = "1"
    request.ScheduledProtocolCodeSequence = Sequence([code("MG", "Mammogram", "L")])
    ds.RequestAttributesSequence = Sequence([request])
    ds.AcquisitionContextSequence = Sequence()


def add_private(ds: Dataset) -> None:
    for group in (0x0019, 0x0021):
        block = ds.private_block(group, "MAKER 1.0", create=True)
        for element in range(12):
            block.add_new(element, "LO", f"private value {element}")


def add_frames(ds: Dataset, side: str) -> None:
    ds.NumberOfFrames = FRAMES
    ds.VolumetricProperties, ds.VolumeBasedCalculationTechnique = "VOLUME", "TOMOSYNTHESIS"
    shared = Dataset()
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = ["0.1", "0.1"], "1"
    shared.PixelMeasuresSequence = Sequence([measures])
    orientation = Dataset()
    orientation.ImageOrientationPatient = [0.0, -1.0, 0.0, -1.0, 0.0, 0.0]
    shared.PlaneOrientationSequence = Sequence([orientation])
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = Sequence([code("76752008", "Breast")])
    anatomy.FrameLaterality = side
    shared.FrameAnatomySequence = Sequence([anatomy])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    ds.PerFrameFunctionalGroupsSequence = Sequence([frame(number) for number in range(FRAMES)])


def frame(number: int) -> Dataset:
    groups = Dataset()
    kind = Dataset()
    kind.FrameType = ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "NONE"]
    kind.PixelPresentation, kind.VolumetricProperties = "MONOCHROME", "VOLUME"
    kind.VolumeBasedCalculationTechnique = "TOMOSYNTHESIS"
    kind.ReconstructionIndex = 1
    groups.XRay3DFrameTypeSequence = Sequence([kind])
    content = Dataset()
    content.StackID, content.InStackPositionNumber = "1", number + 1
    content.DimensionIndexValues = [1, number + 1]
    content.FrameAcquisitionNumber = 1
    content.FrameReferenceDateTime = content.FrameAcquisitionDateTime = "20240117101530.25"
    content.FrameAcquisitionDuration = 3700.0
    groups.FrameContentSequence = Sequence([content])
    position = Dataset()
    position.ImagePositionPatient = ["10.5", "20.5", str(number)]
    groups.PlanePositionSequence = Sequence([position])
    window = Dataset()
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = "500", "600", "SIGMOID"
    groups.FrameVOILUTSequence = Sequence([window])
    return groups


def write(path: Path, ds: Dataset, *, open_sequences: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if open_sequences:
        ds.walk(lambda _, element: setattr(element, "is_undefined_length", element.VR == "SQ"))
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
