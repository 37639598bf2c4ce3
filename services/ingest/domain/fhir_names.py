"""The names that elements have in FHIR R4: words of the standard, which tell nothing of a record that has them.

Those of the data types, of the resource types that the hub takes and of what all resources have, as their
StructureDefinitions have them (hl7.org/fhir/R4/downloads.html); choices are spelt out (onsetDateTime).
`tests/unit/ingest/test_fhir_examples.py` derives them anew.
"""

from typing import Final

NAMES: Final = frozenset(
    """abatementAge abatementDateTime abatementPeriod abatementRange abatementString accident account action active
    actor addItem additionalInstruction address adjudication adjustment adjustmentReason admitSource age
    ageCodeableConcept ageRange aggregation alias allowedBoolean allowedCodeableConcept allowedMoney
    allowedString allowedUnsignedInt amount amountQuantity amountRange amountString amountText amountType
    appliesTo appointment asNeededBoolean asNeededCodeableConcept asserter assessment assigner authorReference
    authorString authoredOn authority authorizingPrescription base basedOn benefitBalance benefitPeriod
    billablePeriod binding birthDate bodySite boundsDuration boundsPeriod boundsRange businessArrangement
    careTeam careTeamSequence category citation city claim claimResponse class classHistory clinicalStatus code
    codeFilter coding color comment communication comparator complication complicationDetail component
    conclusion conclusionCode condition constraint contact contained contentReference contentType context count
    countMax country courseOfTherapyType coverage created creation currency data dataAbsentReason date
    dateAsserted dateFilter dateRange dayOfWeek daysSupply deceasedBoolean deceasedDateTime defaultValueAddress
    defaultValueAge defaultValueAnnotation defaultValueAttachment defaultValueBase64Binary defaultValueBoolean
    defaultValueCanonical defaultValueCode defaultValueCodeableConcept defaultValueCoding
    defaultValueContactDetail defaultValueContactPoint defaultValueContributor defaultValueCount
    defaultValueDataRequirement defaultValueDate defaultValueDateTime defaultValueDecimal defaultValueDistance
    defaultValueDosage defaultValueDuration defaultValueExpression defaultValueHumanName defaultValueId
    defaultValueIdentifier defaultValueInstant defaultValueInteger defaultValueMarkdown defaultValueMeta
    defaultValueMoney defaultValueOid defaultValueParameterDefinition defaultValuePeriod defaultValuePositiveInt
    defaultValueQuantity defaultValueRange defaultValueRatio defaultValueReference defaultValueRelatedArtifact
    defaultValueSampledData defaultValueSignature defaultValueString defaultValueTime defaultValueTiming
    defaultValueTriggerDefinition defaultValueUnsignedInt defaultValueUri defaultValueUrl
    defaultValueUsageContext defaultValueUuid definition denominator depth derivedFrom description destination
    detail detailSequence detectedIssue device diagnosis diagnosisCodeableConcept diagnosisReference
    diagnosisSequence dietPreference dimensions direction dischargeDisposition discriminator dispenseInterval
    dispenseRequest display disposition district div doNotPerform document documentType documentation dosage
    dosageInstruction dose doseAndRate doseNumberPositiveInt doseNumberString doseQuantity doseRange duration
    durationMax durationUnit education effectiveDateTime effectiveInstant effectivePeriod effectiveTiming
    encounter end enterer episodeOfCare event eventHistory evidence example excluded expectedSupplyDuration
    expirationDate expression extension externalDiameter facility factor family financial fixedAddress fixedAge
    fixedAnnotation fixedAttachment fixedBase64Binary fixedBoolean fixedCanonical fixedCode fixedCodeableConcept
    fixedCoding fixedContactDetail fixedContactPoint fixedContributor fixedCount fixedDataRequirement fixedDate
    fixedDateTime fixedDecimal fixedDistance fixedDosage fixedDuration fixedExpression fixedHumanName fixedId
    fixedIdentifier fixedInstant fixedInteger fixedMarkdown fixedMeta fixedMoney fixedOid
    fixedParameterDefinition fixedPeriod fixedPositiveInt fixedQuantity fixedRange fixedRatio fixedReference
    fixedRelatedArtifact fixedSampledData fixedSignature fixedString fixedTime fixedTiming
    fixedTriggerDefinition fixedUnsignedInt fixedUri fixedUrl fixedUsageContext fixedUuid focal focalDevice
    focus followUp form formCode frequency frequencyMax function fundingSource fundsReserve
    fundsReserveRequested gender generalPractitioner given groupIdentifier hasMember hash height high highLimit
    hospitalization human id identifier identity image imagingStudy implicitRules imprint individual
    informationSequence informationSource initialFill instantiates instantiatesCanonical instantiatesUri
    insurance insurer intent interpretation isModifier isModifierReason isSubpotent isSummary issued item
    itemSequence jurisdiction key label language lastUpdated length limit line link location locationAddress
    locationCodeableConcept locationReference lotNumber low lowLimit lowerLimit managingOrganization manipulated
    manufacturer map mapping maritalStatus max maxDosePerAdministration maxDosePerLifetime maxDosePerPeriod
    maxLength maxValueDate maxValueDateTime maxValueDecimal maxValueInstant maxValueInteger maxValuePositiveInt
    maxValueQuantity maxValueTime maxValueUnsignedInt meaningWhenMissing media medicationCodeableConcept
    medicationReference meta method min minValueDate minValueDateTime minValueDecimal minValueInstant
    minValueInteger minValuePositiveInt minValueQuantity minValueTime minValueUnsignedInt modifier
    modifierExtension multipleBirthBoolean multipleBirthInteger mustSupport name net network nominalVolume note
    noteNumber number numberOfRepeatsAllowed numerator occurrenceDateTime occurrenceString offset onAdmission
    onBehalfOf onsetAge onsetDateTime onsetPeriod onsetRange onsetString orderMeaning ordered organization
    origin originalPrescription other outcome packageCode partOf participant party path patient
    patientInstruction patternAddress patternAge patternAnnotation patternAttachment patternBase64Binary
    patternBoolean patternCanonical patternCode patternCodeableConcept patternCoding patternContactDetail
    patternContactPoint patternContributor patternCount patternDataRequirement patternDate patternDateTime
    patternDecimal patternDistance patternDosage patternDuration patternExpression patternHumanName patternId
    patternIdentifier patternInstant patternInteger patternMarkdown patternMeta patternMoney patternOid
    patternParameterDefinition patternPeriod patternPositiveInt patternQuantity patternRange patternRatio
    patternReference patternRelatedArtifact patternSampledData patternSignature patternString patternTime
    patternTiming patternTriggerDefinition patternUnsignedInt patternUri patternUrl patternUsageContext
    patternUuid payee payment performedAge performedDateTime performedPeriod performedRange performedString
    performer performerType period periodMax periodUnit photo physicalType physiologicalCondition postalCode
    preAdmissionIdentifier preAuthRef preAuthRefPeriod precedence preferred prefix prescription presentationDate
    presentedForm primarySource priorPrescription priority procedure procedureCodeableConcept procedureReference
    procedureSequence processNote productOrService profile programCode programEligibility protocolApplied
    provider publicationDate qualification quantity race rank rateQuantity rateRange rateRatio reAdmission
    reaction reason reasonCode reasonReference receiver recorded recordedDate recorder reference referenceRange
    referral related relationship repeat report reportOrigin reported reportedBoolean reportedReference
    representation request requester requirements resource responsible responsibleParty restoreDate result
    resultsInterpreter revenue role route rules scoring searchParam security sequence series
    seriesDosesPositiveInt seriesDosesString serviceProvider serviceType servicedDate servicedPeriod severity
    shape short sigFormat site size sliceIsConstraining sliceName slicing sort source specialArrangement
    specialCourtesy specialPrecautionsForStorage specimen stage start state status statusHistory statusReason
    statusReasonCodeableConcept statusReasonReference strength subDetail subDetailSequence subSite subType
    subject subjectCodeableConcept subjectReference subpotentReason substitution suffix summary supportingInfo
    supportingInformation system tag targetDisease targetFormat targetProfile telecom term text time timeOfDay
    timing timingDate timingDateTime timingPeriod timingReference timingTiming title total type udi unit
    unitPrice upperLimit url use usedCode usedMoney usedReference usedUnsignedInt userSelected vaccineCode
    validityPeriod value valueAddress valueAge valueAnnotation valueAttachment valueBase64Binary valueBoolean
    valueCanonical valueCode valueCodeableConcept valueCoding valueContactDetail valueContactPoint
    valueContributor valueCount valueDataRequirement valueDate valueDateTime valueDecimal valueDistance
    valueDosage valueDuration valueExpression valueHumanName valueId valueIdentifier valueInstant valueInteger
    valueMarkdown valueMeta valueMoney valueOid valueParameterDefinition valuePeriod valuePositiveInt
    valueQuantity valueRange valueRatio valueReference valueRelatedArtifact valueSampledData valueSet
    valueSignature valueString valueTime valueTiming valueTriggerDefinition valueUnsignedInt valueUri valueUrl
    valueUsageContext valueUuid verificationStatus version versionId versioning wasSubstituted weight when
    whenHandedOver whenPrepared who width xpath
    """.split()  # noqa: SIM905 - seven hundred quotes say no more
)
