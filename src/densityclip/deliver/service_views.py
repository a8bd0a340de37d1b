"""What the web service says, as its description names it: jobs, exams, problems."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from densityclip.artifacts import read_json
from densityclip.deliver.uploads import RESULT, JobState, JobStatus, Uploads
from densityclip.reasons import reason_of


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str = Field(description="One sentence.")


class Progress(BaseModel):
    """How far a job is."""

    done: int = Field(description="Steps done: an image counts when it is answered, and again when it is drawn.")
    total: int


class ImageFiles(BaseModel):
    """Pictures of one answered image."""

    number: int
    image_id: str
    capture: bool = Field(description="Whether there is a DICOM secondary capture.")


class ExamFiles(BaseModel):
    """What there is for one exam."""

    number: int
    report: bool = Field(description="Whether there is a DICOM structured report.")
    without: str | None = Field(description="Why there are no DICOM objects.")
    images: list[ImageFiles]


class JobView(BaseModel):
    """A job."""

    id: str
    state: Literal["waiting", "working", "done", "failed"]
    files: int
    before: int = Field(description="Jobs that wait before it.")
    progress: Progress | None = None
    reason: str | None = Field(default=None, description="Stable code of why it failed.")
    meaning: str | None = Field(default=None, description="The reason in words.")
    remedy: str | None = Field(default=None, description="What a person can do about it.")
    detail: str | None = None
    expires_at: float | None = Field(default=None, description="When it goes, seconds since 1970.")
    exams: list[ExamFiles] = Field(default_factory=list)
    passed_over: list[int] = Field(
        default_factory=list,
        description="Said once, when files were uploaded: numbers, from 1, of those that are neither DICOM nor a "
        "picture nor a zip archive, and were not kept.",
    )


class Health(BaseModel):
    """Whether the service can take jobs."""

    status: Literal["ok", "full"]
    waiting: int


class Version(BaseModel):
    """What answers."""

    densityclip: str
    notice: str
    model: dict[str, Any]
    needs_key: bool
    max_upload_mb: int
    max_files: int
    dicomweb: list[str] = Field(description="Names of the DICOMweb servers whose studies may be asked for.")


class StudyRequest(BaseModel, extra="forbid"):
    """A study that a DICOMweb server holds."""

    server: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,40}$", description="One of `dicomweb` in `/api/version`.")
    study: str = Field(pattern=r"^[0-9.]{1,64}$", description="Study Instance UID.")


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The Host header is not one of ours."},
    401: {"model": Problem, "description": "The key is missing or not known."},
}
MISSING = PROBLEMS | {
    404: {"model": Problem, "description": "There is no such job or file of yours, or its time is over."},
    422: {"model": Problem, "description": "The address is malformed."},
}
UPLOAD_PROBLEMS = PROBLEMS | {
    403: {"model": Problem, "description": "The request comes from a page of another site."},
    408: {"model": Problem, "description": "The upload took too long."},
    413: {"model": Problem, "description": "Too many bytes or files."},
    415: {"model": Problem, "description": "A kind of body or file that cannot be read."},
    422: {"model": Problem, "description": "No file, or a damaged upload."},
    503: {"model": Problem, "description": "Too much is waiting; try again later."},
    507: {"model": Problem, "description": "The disk is full."},
}
STUDY_PROBLEMS = UPLOAD_PROBLEMS | {
    404: {"model": Problem, "description": "There is no DICOMweb server of this name."},
    415: {"model": Problem, "description": "The body is no JSON."},
    422: {"model": Problem, "description": "The server or the UID is missing or malformed."},
}
STUDY_BODY = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": StudyRequest.model_json_schema()}}}
}
UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "format": "binary"},
                            "description": "DICOM or picture files, or one zip archive of them.",
                        }
                    },
                }
            }
        },
    }
}


def view(uploads: Uploads, status: JobStatus) -> JobView:
    """A job as its owner sees it."""
    said = uploads.progress(status.id) if status.state is JobState.WORKING else {}
    reason = reason_of(status.reason) if status.reason else None
    exams = _exams(uploads, status.id) if status.state is JobState.DONE else []
    return JobView(
        id=status.id,
        state=status.state.value,
        files=status.files,
        before=status.before,
        progress=Progress(**said) if said else None,
        reason=reason.value if reason else None,
        meaning=reason.sentence if reason else None,
        remedy=reason.remedy if reason else None,
        detail=status.detail,
        expires_at=status.expires_at,
        exams=exams,
    )


def _exams(uploads: Uploads, job: str) -> list[ExamFiles]:
    found = read_json(uploads.result(job, RESULT), "the service")
    return [ExamFiles.model_validate(exam) for exam in found["exams"]]
